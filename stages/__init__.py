"""One command a stage of dvc.yaml. Importing it refuses systems where no command works, and sets how threads wait."""

import os
import sys

if sys.platform == "win32":
    # Before any command's imports, which fail there: stores are written under POSIX locks and renames.
    sys.exit("Error: Windows is not supported. Use Linux or macOS, or the Windows Subsystem for Linux")

# After that refusal, and before any command's imports, which load torch and with it OpenMP.
from pipeline.core.openmp import share_cores

share_cores(os.environ)
