"""The etcd of a local mesh."""
