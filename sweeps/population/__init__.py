"""Many runs as one program: plan, worlds, compiled programs, execution on the devices of this host."""
