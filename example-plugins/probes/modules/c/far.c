/* The far end of the chain of libraries that probe-modules needs. */
int probe_far(int number) { return number + 1; }
