"""What replicas and nodes agree on through etcd: the leader, barriers and acknowledgements."""
