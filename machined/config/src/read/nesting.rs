//! How deep a document nests, before the KDL parser recurses into it.

use super::DEPTH_MAX;

/// Where blocks or comments nest deeper than any document does. The KDL parser recurses, and a stack overflow is no error
/// that anybody could report, so this runs before it. It reads only what can hide a brace: strings and comments.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'(' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Some(at);
                }
            }
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = skip_string(bytes, at),
            b'/' if bytes[at..].starts_with(b"//") => {
                at += bytes[at..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - at);
            }
            b'/' if bytes[at..].starts_with(b"/*") => match skip_comment(bytes, at) {
                Some(end) => at = end,
                None => return Some(at),
            },
            _ => {}
        }
        at += 1;
    }
    None
}

/// The last byte of the string that begins at `at`; raw strings are as many `#` long at the end as stand before it.
fn skip_string(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[..at].iter().rev().take_while(|b| **b == b'#').count();
    let quotes = if bytes[at..].starts_with(b"\"\"\"") { 3 } else { 1 };
    let mut end = vec![b'"'; quotes];
    end.resize(quotes + hashes, b'#');
    let mut place = at + quotes;
    while place < bytes.len() {
        if bytes[place..].starts_with(&end) {
            return place + end.len() - 1;
        }
        place += if hashes == 0 && bytes[place] == b'\\' { 2 } else { 1 };
    }
    bytes.len()
}

/// The last byte of the block comment that begins at `at`, or `None` when comments nest too deep.
fn skip_comment(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut place, mut depth) = (at, 0_usize);
    while place < bytes.len() {
        if bytes[place..].starts_with(b"/*") {
            depth += 1;
            place += 1;
        } else if bytes[place..].starts_with(b"*/") {
            depth -= 1;
            place += 1;
        }
        if depth == 0 {
            return Some(place);
        }
        if depth > DEPTH_MAX {
            return None;
        }
        place += 1;
    }
    Some(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_strings_and_comments() {
        let many = "{".repeat(DEPTH_MAX + 1);
        let hidden = format!("a \"{many}\" #\"{many}\"{many}\"# // {many}\n/* {many} */");
        assert_eq!(too_deep(&hidden), None);
        assert!(too_deep(&"a { ".repeat(DEPTH_MAX + 1)).is_some());
        assert!(too_deep(&"a { b \"}\"; ".repeat(DEPTH_MAX + 1)).is_some(), "a brace in a string closes nothing");
        assert!(too_deep(&"/*".repeat(DEPTH_MAX + 1)).is_some());
        assert_eq!(too_deep(&"a {}\n".repeat(1_000)), None);
    }
}
