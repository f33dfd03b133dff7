"""etcd for tests: clusters, proxies, backups, and followers of a prefix."""
