"""`python -m csi_s3`: how one of our programs starts another by exec."""

from csi_s3.cli import main

main()
