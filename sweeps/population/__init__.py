"""Many runs as one program: plan, worlds, programs, execution on the devices of this host."""
