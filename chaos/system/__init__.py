"""The mesh under test: its processes, its etcd cluster, and the network between them."""
