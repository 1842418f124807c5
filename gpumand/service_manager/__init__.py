"""What talks to systemd: units over D-Bus, log lines, and notifications about ourselves."""
