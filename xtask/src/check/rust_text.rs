//! Rust without its comments and literals: what is left can be searched for words.

/// The source with comments, strings and character literals blanked; lines stay where they are.
pub fn code_only(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < text.len() {
        let end = literal_end(&text, at);
        if end == at {
            code.push(text[at]);
            at += 1;
            continue;
        }
        for character in &text[at..end] {
            code.push(if *character == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    code
}

/// Where the comment or literal that starts here ends; here, if none does.
fn literal_end(text: &[char], at: usize) -> usize {
    let next = text.get(at + 1).copied();
    match text[at] {
        '/' if next == Some('/') => line_end(text, at),
        '/' if next == Some('*') => comment_end(text, at),
        '"' => string_end(text, at + 1),
        '\'' => character_end(text, at),
        'r' if !is_in_word(text, at) => raw_string_end(text, at),
        _ => at,
    }
}

/// Whether the character belongs to the word before it. `br"` and `cr"` begin a literal, too.
fn is_in_word(text: &[char], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|index| text[index]);
    let is_word = |character: Option<char>| character.is_some_and(is_word_character);
    match before(1) {
        Some('b' | 'c') => is_word(before(2)),
        other => is_word(other),
    }
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn line_end(text: &[char], at: usize) -> usize {
    text[at..].iter().position(|character| *character == '\n').map_or(text.len(), |line| at + line)
}

fn comment_end(text: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

fn string_end(text: &[char], mut at: usize) -> usize {
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// A lifetime is no literal.
fn character_end(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            let rest = text.get(at + 3..).unwrap_or_default();
            rest.iter().position(|character| *character == '\'').map_or(at, |quote| at + quote + 4)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

fn raw_string_end(text: &[char], at: usize) -> usize {
    let hashes = text[at + 1..].iter().take_while(|character| **character == '#').count();
    let first = at + 1 + hashes;
    if text.get(first) != Some(&'"') {
        return at;
    }
    let mut end = first + 1;
    while end < text.len() {
        let closing = text[end] == '"'
            && text[end + 1..].iter().take_while(|character| **character == '#').count() >= hashes;
        end += 1;
        if closing {
            return end + hashes;
        }
    }
    text.len()
}

/// The lines, from 1, that have the word in them.
pub fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let has = |line: &str| line.split(|character| !is_word_character(character)).any(|w| w == word);
    code.lines().enumerate().filter(|(_, line)| has(line)).map(|(line, _)| line + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::{code_only, lines_with};

    fn lines(source: &str) -> Vec<usize> {
        lines_with(&code_only(source), "unsafe")
    }

    #[test]
    fn the_keyword_is_found() {
        assert_eq!(lines("fn f() {\n    unsafe { g() }\n}\nunsafe fn h() {}\n"), [2, 4]);
        assert_eq!(lines("#[unsafe(no_mangle)]"), [1]);
    }

    #[test]
    fn other_words_are_not() {
        assert!(lines("#![forbid(unsafe_code)]\nlet not_unsafe = 1;").is_empty());
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert!(
            lines("// unsafe\n/* unsafe /* unsafe */ unsafe */\n\"unsafe \\\" unsafe\"").is_empty()
        );
        assert!(lines("r#\"unsafe \" unsafe\"# br\"unsafe\"").is_empty());
        assert_eq!(lines("fn f<'a>(c: char) { c == '\"'; c == '\\''; unsafe {} }"), [1]);
        assert_eq!(lines("let r = 1; unsafe {}"), [1]);
    }
}
