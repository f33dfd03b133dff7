"""`python -m authsvc.cli`: the command where the `credmesh` script is not on the PATH."""

from authsvc.cli import main

main()
