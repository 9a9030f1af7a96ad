//! Query parameters as the API server passes them on: repeated keys, percent escapes, several spellings of true. Pure.

/// The parameters of a request in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`; what cannot be decoded is kept as it is.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a key.
    pub(super) fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key in order.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Whether one of the keys is set to a spelling of true; a key without value counts.
    pub(super) fn is_set(&self, keys: &[&str]) -> bool {
        keys.iter()
            .filter_map(|key| self.first(key))
            .any(|value| matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// A number, if the key is there and is one.
    pub(super) fn number<N: std::str::FromStr>(&self, key: &str) -> Option<N> {
        self.first(key)?.parse().ok()
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_keep_their_order_and_their_special_characters() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22&stdin=true&tty=0&tailLines=5&x=%zz%4");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo \"a&b\""]);
        assert!(query.is_set(&["input", "stdin"]) && !query.is_set(&["tty"]) && !query.is_set(&["none"]));
        assert_eq!(query.number::<usize>("tailLines"), Some(5));
        assert_eq!(query.first("x"), Some("%zz%4"));
    }
}
