"""Records, leases and timestamps in etcd."""
