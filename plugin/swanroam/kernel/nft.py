"""nftables through its own program: for rules, which change seldom; set elements go over netlink."""

import errno
import os
import re
import subprocess
from typing import Final

from swanroam.errors import KernelRefused

__all__ = ["run_nft"]

NFT_TIMEOUT_S: Final = 30.0


def run_nft(program: str, rules: str, table: str) -> None:
    """Have all of `rules` take effect, or none. Raises KernelRefused with the program's own words, about `table`."""
    operation = f"{program} -f - (table {table})"
    try:
        done = subprocess.run(  # noqa: S603 - the program comes from the caller, never from outside
            [program, "-f", "-"],
            input=rules,
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise KernelRefused(operation, error.errno or errno.EIO) from error
    except subprocess.TimeoutExpired as error:
        raise KernelRefused(operation, errno.ETIMEDOUT) from error
    if done.returncode != 0:
        # Its first complaint; the others follow from it, or are of the same kind.
        complaint = next(iter(done.stderr.strip().splitlines()), "no reason given")[:500]
        raise KernelRefused(f"{operation}: {complaint}", _errno_in(done.stderr))


def _errno_in(complaint: str) -> int:
    """The errno behind nft's "Could not process rule: TEXT", EINVAL for complaints of its own."""
    if found := re.search(r"Could not process rule: ([^\n;]+)", complaint):
        for code in errno.errorcode:
            if os.strerror(code) == found[1].strip():
                return code
    return errno.EINVAL
