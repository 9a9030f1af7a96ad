//! Licences as Debian's packages name them -> SPDX expressions (<https://spdx.org/licenses>).

use std::collections::BTreeSet;

/// What begins a copyright file that programs can read (DEP-5).
const FORMAT: &str = "Format:";
/// Debian's short names and SPDX's; a name that is in neither column is carried as a reference.
const NAMES: [(&str, &str); 24] = [
    ("apache-2.0", "Apache-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("cc0-1.0", "CC0-1.0"),
    ("expat", "MIT"),
    ("mit", "MIT"),
    ("gpl-2", "GPL-2.0-only"),
    ("gpl-2+", "GPL-2.0-or-later"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-2.0+", "GPL-2.0-or-later"),
    ("gpl-3", "GPL-3.0-only"),
    ("gpl-3+", "GPL-3.0-or-later"),
    ("isc", "ISC"),
    ("lgpl-2", "LGPL-2.0-only"),
    ("lgpl-2+", "LGPL-2.0-or-later"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-2.1+", "LGPL-2.1-or-later"),
    ("lgpl-3", "LGPL-3.0-only"),
    ("lgpl-3+", "LGPL-3.0-or-later"),
    ("mpl-2.0", "MPL-2.0"),
    ("mpl-1.1", "MPL-1.1"),
    ("zlib", "Zlib"),
];

/// All licences of a machine-readable copyright file, each of which applies to some of its files; none when it is not readable.
pub(super) fn of_copyright(text: &str) -> Option<String> {
    if !text.starts_with(FORMAT) {
        return None;
    }
    let lines = text.lines().filter_map(|line| line.strip_prefix("License:"));
    let names: BTreeSet<String> = lines.map(str::trim).filter(|name| !name.is_empty()).flat_map(alternatives).collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(" AND "))
}

/// One `License:` line: names joined by `and`, `or` and commas. Where a choice stands, all of it is listed: nobody chose yet.
fn alternatives(line: &str) -> Vec<String> {
    let words = line.replace(" and ", ",").replace(" or ", ",").replace(" and/or ", ",");
    words.split(',').map(str::trim).filter(|name| !name.is_empty()).map(spdx).collect()
}

fn spdx(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match NAMES.iter().find(|(debian, _)| *debian == lower) {
        Some((_, spdx)) => (*spdx).to_owned(),
        None => reference(&lower),
    }
}

/// A name that SPDX does not know, in the letters that it takes.
fn reference(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    format!("LicenseRef-Debian-{}", name.chars().map(letter).collect::<String>())
}

/// The licence of a crate; cargo still takes a slash for a choice.
pub(super) fn of_crate(text: &str) -> String {
    if text.contains('/') && !text.contains(' ') {
        text.replace('/', " OR ")
    } else {
        text.replace('/', " OR ").replace("  ", " ")
    }
}

/// The references in an expression.
pub(super) fn references(expression: &str) -> impl Iterator<Item = &str> {
    expression.split([' ', '(', ')']).filter(|word| word.starts_with("LicenseRef-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_names_become_those_of_spdx() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+ and Expat\n\n\
                    Files: a\nLicense: Odd Licence_1\n\nLicense: Expat\n Permission is granted\n";
        let expected = "GPL-2.0-or-later AND LicenseRef-Debian-odd-licence-1 AND MIT";
        assert_eq!(of_copyright(text).as_deref(), Some(expected));
        assert_eq!(references(expected).collect::<Vec<_>>(), ["LicenseRef-Debian-odd-licence-1"]);
    }

    #[test]
    fn a_copyright_file_for_people_says_nothing_to_programs() {
        assert_eq!(of_copyright("This package was debianized by ...\nLicense: GPL\n"), None);
    }

    #[test]
    fn a_slash_is_a_choice() {
        assert_eq!(of_crate("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(of_crate("MIT OR Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(of_crate("MIT / Apache-2.0"), "MIT OR Apache-2.0");
    }
}
