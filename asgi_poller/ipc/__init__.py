"""Parent and child: control messages, bootstrap, heartbeat, stack dumps."""
