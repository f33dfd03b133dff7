"""Finding out that etcd has lost a part of its history, and answering it."""
