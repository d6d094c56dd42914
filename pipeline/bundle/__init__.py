"""One archive that checks a student on a device, and sending it there."""
