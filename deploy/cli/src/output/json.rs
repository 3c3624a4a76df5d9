//! JSON text with line breaks and tabs, its tokens untouched: numbers keep all digits and fields their order.

/// How lists of plain values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainLists {
    /// On one line.
    OneLine,
    /// One item a line, as the compatible command line does.
    Spread,
}

/// `text`, one field or item a line; unchanged when it is no JSON.
pub(crate) fn indented(text: &str, lists: PlainLists) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() * 2);
    // For each open bracket: whether it is a list of plain values.
    let mut open: Vec<bool> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let flat = open.last().copied().unwrap_or_default();
        let length = match c {
            '{' | '[' => {
                out.push(c);
                let inside = rest.get(1..).unwrap_or_default();
                let inner_flat = c == '[' && lists == PlainLists::OneLine && is_flat(inside);
                open.push(inner_flat);
                let empty = inside.trim_start().starts_with(['}', ']']);
                if !inner_flat && !empty {
                    new_line(&mut out, open.len());
                }
                1
            }
            '}' | ']' => {
                open.pop();
                if !flat && !out.ends_with(['{', '[']) {
                    new_line(&mut out, open.len());
                }
                out.push(c);
                1
            }
            ',' => {
                out.push(c);
                if flat {
                    out.push(' ');
                } else {
                    new_line(&mut out, open.len());
                }
                1
            }
            ':' => {
                out.push_str(": ");
                1
            }
            '"' => {
                let length = string_length(rest);
                out.push_str(rest.get(..length).unwrap_or_default());
                length
            }
            c if c.is_ascii_whitespace() => 1,
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n('\t', depth));
}

/// Bytes of the string that `text` starts with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether the list whose items start at `text` ends before anything nested begins.
fn is_flat(mut text: &str) -> bool {
    loop {
        let Some(at) = text.find(['"', '[', '{', ']']) else { return false };
        let found = text.get(at..).unwrap_or_default();
        if !found.starts_with('"') {
            return found.starts_with(']');
        }
        text = found.get(string_length(found)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::{PlainLists, indented};

    #[test]
    fn tokens_stay_as_they_are() {
        let cases = [
            ("{}", "{}"),
            ("[ ]", "[]"),
            ("12345678901234567890.10", "12345678901234567890.10"),
            (r#"{"b":1.0,"a":[1, 2.50]}"#, "{\n\t\"b\": 1.0,\n\t\"a\": [1, 2.50]\n}"),
            (r#"{"a":[[1],[2]]}"#, "{\n\t\"a\": [\n\t\t[1],\n\t\t[2]\n\t]\n}"),
            (r#"{"a":{},"t":"x,{\"}[é"}"#, "{\n\t\"a\": {},\n\t\"t\": \"x,{\\\"}[é\"\n}"),
            (r#"["a]","{"]"#, r#"["a]", "{"]"#),
            ("no json {", "no json {"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(indented(text, PlainLists::OneLine), expected);
            assert_eq!(indented(expected, PlainLists::OneLine), expected, "twice changes nothing");
        }
        let spread = "{\n\t\"a\": [\n\t\t1,\n\t\t[]\n\t]\n}";
        assert_eq!(indented(r#"{"a":[1, []]}"#, PlainLists::Spread), spread);
        assert_eq!(indented(spread, PlainLists::Spread), spread);
    }
}
