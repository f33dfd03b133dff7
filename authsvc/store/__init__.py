"""Leases and timestamps in etcd."""
