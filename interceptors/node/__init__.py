"""A node's life: following etcd, registering, proving freshness, ending streams, reporting."""
