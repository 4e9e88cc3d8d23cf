"""What makes, runs and checks the course; each module is run as `python -m ci.<name>`."""

import sys

# jsonschema (below nbformat) takes this for a check that no notebook needs; its grammar costs every command a second.
# None in its place is an ImportError, with which jsonschema goes on without it.
sys.modules.setdefault("rfc3987_syntax", None)
