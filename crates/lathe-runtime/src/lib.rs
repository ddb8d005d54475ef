//! Devices, arenas, kernel build and cache, the thread pool, and measuring the machine.
