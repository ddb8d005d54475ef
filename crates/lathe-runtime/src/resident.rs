//! How much real memory this process holds, as the system counts it.

/// Most resident memory so far, bytes; `None` where the system does not say.
pub fn peak_rss_bytes() -> Option<u64> {
    status("VmHWM:")
}

/// Resident memory now, bytes; `None` where the system does not say.
pub fn current_rss_bytes() -> Option<u64> {
    status("VmRSS:")
}

/// Resident memory now that is no file's, bytes, so that the system cannot take it back; `None` where it does not say.
pub fn anonymous_rss_bytes() -> Option<u64> {
    status("RssAnon:")
}

/// Gives memory that was freed back to the system, as far as the allocator can.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it only looks for pages that nothing allocated lies on; the C library does so itself at times.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn resident_memory_is_known() {
        let (peak, now) = (super::peak_rss_bytes().unwrap(), super::current_rss_bytes().unwrap());
        assert!(peak > 0 && now > 0 && peak >= now / 2);
    }
}
