//! Answers as tables for people and as JSON for programs.

use crate::arguments::Form;
use anyhow::Result;
use serde_json::Value;
use std::io::{IsTerminal, Write};

/// Prints one JSON document, indented for a terminal.
pub(crate) fn json(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        serde_json::to_writer_pretty(&mut out, value)?;
    } else {
        serde_json::to_writer(&mut out, value)?;
    }
    writeln!(out)?;
    Ok(())
}

/// Prints a table: a head and rows, columns as wide as their widest cell, the last one free.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints names and values, one a line, values in one column.
pub(crate) fn fields(fields: &[(&str, String)]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    for (name, value) in fields {
        writeln!(out, "{:width$} {value}", format!("{name}:"))?;
    }
    Ok(())
}

/// Prints one item of a stream: bytes as they are for people, an object for programs.
pub(crate) fn line(form: Form, text: &[u8], value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match form {
        Form::Text => {
            out.write_all(&printable(text))?;
            out.write_all(b"\n")?;
        }
        Form::Json => {
            serde_json::to_writer(&mut out, value)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Log lines come from machines and containers: what could drive a terminal is shown, not obeyed.
fn printable(text: &[u8]) -> Vec<u8> {
    let control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
    text.iter().map(|&byte| if control(byte) { b'?' } else { byte }).collect()
}

/// Text of others (commit subjects, refusals about crooked names) on one line, with nothing that could drive a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Bytes for people: 12.3 MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let size = bytes as f64 / MIB;
    format!("{size:.1} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_in_logs_are_not_obeyed() {
        assert_eq!(printable(b"\x1b[2Jgone\r\tkept"), b"?[2Jgone?\tkept");
    }
}
