"""The version number, read by the build, the daemon and the client."""

VERSION = "0.1.0"
