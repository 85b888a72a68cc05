//! A literal's announcement: `{5}` or `{5+}` at the end of a line. RFC 3501 section 4.3, RFC 7888,
//! RFC 5804 section 4.

/// `{n}` or `{n+}` at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// `None`: more than 32 bits can count.
    pub bytes: Option<u32>,
    /// The client waits for a continuation request.
    pub synchronizing: bool,
    /// Length of the announcement itself, at the end of the collected command.
    pub marker_bytes: usize,
}

/// A literal's announcement at the end of `line`.
#[must_use]
pub fn announced(line: &[u8]) -> Option<Announced> {
    let inside = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inside)?;
    let digits = inside.get(open.saturating_add(1)..)?;
    let (digits, synchronizing) = match digits.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (digits, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let bytes = std::str::from_utf8(digits).ok()?.parse().ok();
    Some(Announced { bytes, synchronizing, marker_bytes: line.len().saturating_sub(open) })
}
