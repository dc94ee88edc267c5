"""Exit 0 when a URL answers 200: the image has no curl. Used as the containers' health check."""

import sys
import urllib.request

try:
    with urllib.request.urlopen(sys.argv[1], timeout=4) as response:
        sys.exit(response.status != 200)
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
