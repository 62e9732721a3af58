/* What probe-modules needs itself; it needs libprobe_far.so in turn. */
int probe_far(int number);
int probe_near(int number) { return probe_far(number) + 10; }
