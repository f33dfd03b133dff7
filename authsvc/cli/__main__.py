"""`python -m authsvc.cli`, for where the `credmesh` script is not on the PATH."""

from authsvc.cli import main

main()
