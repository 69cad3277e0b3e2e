"""One command a stage of dvc.yaml. Importing it refuses systems on which no command works."""

import sys

if sys.platform == "win32":
    # Before any command's imports, which fail there: stores are written under POSIX locks and renames.
    sys.exit("Error: Windows is not supported. Use Linux or macOS, or the Windows Subsystem for Linux")
