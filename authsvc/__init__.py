"""The auth service, the only place that can sign; its HTTP face; the `credmesh` command."""
