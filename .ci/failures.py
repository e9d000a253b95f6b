"""Of every test that failed, as pytest's XML tells: its name and the last lines of what it said.

python .ci/failures.py tests.xml
"""

import sys
import xml.etree.ElementTree as ET

LINES = 30


def main(path: str) -> None:
    """Print them."""
    for case in ET.parse(path).getroot().iter("testcase"):
        for found in (*case.iter("failure"), *case.iter("error")):
            print(f"\n== {case.get('classname')}::{case.get('name')}")
            print("\n".join((found.text or found.get("message") or "").splitlines()[-LINES:]))


if __name__ == "__main__":
    main(sys.argv[1])
