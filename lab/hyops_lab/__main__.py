"""`python -m hyops_lab`."""

from hyops_lab.cli import lab

if __name__ == "__main__":
    lab(prog_name="hyops lab")
