"""Of every test that failed, as pytest's XML tells: its name and the last lines of what it said.

    python .ci/failures.py tests.xml

The exit code is 1 if the file tells of none.
"""

import sys
import xml.etree.ElementTree as ET

LINES = 30


def main(path: str) -> int:
    """Print them."""
    told = 0
    for case in ET.parse(path).getroot().iter("testcase"):
        for found in (*case.iter("failure"), *case.iter("error")):
            print(f"\n== {case.get('classname')}::{case.get('name')}")
            print("\n".join((found.text or found.get("message") or "").splitlines()[-LINES:]))
            told += 1
    return 0 if told else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
