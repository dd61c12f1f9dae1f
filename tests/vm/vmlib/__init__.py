"""The bed's second kind of host: a QEMU machine with its own kernel, for what a container cannot show.

Real in it: sysctls, cpufreq governors, two NUMA nodes, service limits and sandboxing, a reboot. Simulated: the CPU
(TCG, so nothing here is fast and no time measured in it means anything) and the GPU. Three layers in the cache, each
keyed by its inputs: the disk (a minute), the machine with its memory after one cold boot, and on top of that the
model and the simulated GPU (seconds). A host starts from the memory of the last one, so `up` takes seconds.
"""
