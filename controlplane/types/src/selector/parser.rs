//! Reads the query form of label selectors: words, operators and parentheses.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::label::{LabelSelector, Operator, Requirement, SelectorError};

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let mut requirements = Vec::new();
        if parser.peek().is_empty() {
            return Ok(LabelSelector::default());
        }
        loop {
            requirements.push(parser.requirement()?.checked()?);
            match parser.next() {
                "" => return Ok(LabelSelector { requirements }),
                "," if !parser.peek().is_empty() => {}
                "," => return Err(unexpected("", "identifier after ','")),
                other => return Err(unexpected(other, "',' or the end of the selector")),
            }
        }
    }
}

fn unexpected(found: &str, expected: &'static str) -> SelectorError {
    SelectorError::Unexpected { found: found.to_string(), expected }
}

/// Cuts the text into words and operators; white space only separates.
fn tokens(text: &str) -> Vec<&str> {
    const SPECIAL: [char; 7] = ['=', '!', '(', ')', ',', '>', '<'];
    const DOUBLE: [&str; 2] = ["==", "!="];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if DOUBLE.iter().any(|double| rest.starts_with(double)) {
            2
        } else if SPECIAL.contains(&first) {
            1
        } else {
            rest.find(|c: char| SPECIAL.contains(&c) || c.is_whitespace()).unwrap_or(rest.len())
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn word(&mut self) -> Result<&'a str, SelectorError> {
        match self.peek() {
            found @ ("" | "=" | "==" | "!" | "!=" | "(" | ")" | "," | ">" | "<") => {
                Err(unexpected(found, "!, identifier, or 'end of string'"))
            }
            _ => Ok(self.next()),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == "!";
        if absent {
            self.next();
        }
        let key = self.word()?.to_string();
        let make = |operator, values| Requirement { key: key.clone(), operator, values };
        if absent {
            return Ok(make(Operator::DoesNotExist, BTreeSet::new()));
        }
        let operator = match self.peek() {
            "" | "," => return Ok(make(Operator::Exists, BTreeSet::new())),
            "=" | "==" | "in" => Operator::In,
            "!=" | "notin" => Operator::NotIn,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => return Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        let values = match self.next() {
            "in" | "notin" => self.values()?,
            _ => BTreeSet::from([self.value()]),
        };
        Ok(make(operator, values))
    }

    /// A value may be empty: `a=` and `a=,b`.
    fn value(&mut self) -> String {
        match self.peek() {
            "" | "," => String::new(),
            _ => self.next().to_string(),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let open = self.next();
        if open != "(" {
            return Err(unexpected(open, "'('"));
        }
        let mut values = BTreeSet::new();
        loop {
            match self.next() {
                ")" => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    return Ok(values);
                }
                "," => {
                    if matches!(self.peek(), "," | ")") {
                        values.insert(String::new());
                    }
                }
                "" => return Err(unexpected("", "',' or ')'")),
                value => {
                    values.insert(value.to_string());
                }
            }
        }
    }
}
