"""A foreign reader in its own process: open, look at everything, close, again, until standard input closes.

Prints one JSON line at the end: the distinct states seen in order, and how often an open was refused and why. A state
is the sorted list of [name, digest] of all weights.
"""

import json
import select
import sys
import time

import h5py
from helpers import digest


def main():
    path = sys.argv[1]
    pause = float(sys.argv[2])
    opens, refused, other, states = 0, {"locked": 0, "signature": 0}, [], []
    looking = True
    while looking:
        # The last look comes after standard input has closed: it sees the last commit.
        looking = not select.select([sys.stdin], [], [], pause)[0]
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            text = str(error)
            if "unable to lock file" in text:
                refused["locked"] += 1
            elif "signature not found" in text:
                refused["signature"] += 1
            else:
                other.append(f"open: {text}")
            continue
        try:
            with file:
                state = sorted([dataset.attrs["name"], digest(dataset[()])] for dataset in file["weights"].values())
                time.sleep(pause)  # still one commit a little later, from the same open
                again = sorted([dataset.attrs["name"], digest(dataset[()])] for dataset in file["weights"].values())
        except Exception as error:
            other.append(f"read: {error!r}")
            continue
        opens += 1
        if opens == 1:
            print("ready", flush=True)
        if again != state:
            other.append("two looks through one open differ")
        if not states or states[-1] != state:
            states.append(state)
    print(json.dumps({"opens": opens, "refused": refused, "other": other, "states": states}))


if __name__ == "__main__":
    main()
