"""An etcd client: requests, leases, and mirrors of a prefix. It knows nothing of credmesh."""
