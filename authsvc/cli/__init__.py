"""The `credmesh` command."""
