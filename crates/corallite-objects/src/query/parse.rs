//! Reading a condition.

use serde_json::Value;

use super::condition::{Comparison, Condition, Operator};
use crate::error::{Error, Result};

/// How deep parentheses and `not` may be nested.
const DEEPEST: usize = 64;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Value(Value),
    Sign(&'static str),
}

/// The signs, longer ones first.
const SIGNS: [&str; 11] = ["==", "!=", "<>", "<=", ">=", "=", "<", ">", "~", "(", ")"];

struct Parser<'a> {
    query: &'a str,
    /// Tokens with the byte they begin at.
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

/// Reads a condition.
pub(super) fn parse(query: &str) -> Result<Condition> {
    let mut parser = Parser { query, tokens: Vec::new(), next: 0, depth: 0 };
    parser.split()?;
    if parser.tokens.is_empty() {
        return Ok(Condition::True);
    }
    let condition = parser.any()?;
    match parser.tokens.get(parser.next) {
        None => Ok(condition),
        Some((at, _)) => Err(parser.error(*at, "`and`, `or` or the end was expected here")),
    }
}

impl Parser<'_> {
    fn error(&self, at: usize, problem: &str) -> Error {
        let at = self.query[..at].chars().count();
        Error::Query { query: self.query.to_owned(), at, problem: problem.to_owned() }
    }

    /// Where the next token begins.
    fn here(&self) -> usize {
        self.tokens.get(self.next).map_or(self.query.len(), |(at, _)| *at)
    }

    fn split(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(first) = self.query[at..].chars().next() {
            let rest = &self.query[at..];
            let (token, length) = if first.is_whitespace() {
                at += first.len_utf8();
                continue;
            } else if first == ',' {
                (Token::Sign(","), 1)
            } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                (Token::Sign(sign), sign.len())
            } else if first == '"' || first == '\'' {
                self.text(at, first)?
            } else if first.is_ascii_digit() || matches!(first, '-' | '+') {
                let length = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')))
                    .unwrap_or(rest.len());
                let number = rest[..length].trim_start_matches('+');
                let value: Value = serde_json::from_str(number)
                    .map_err(|_| self.error(at, "this is no number; a text is written in quotes"))?;
                (Token::Value(value), length)
            } else if first.is_alphabetic() || first == '_' {
                let length =
                    rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
                let word = &rest[..length];
                let token = match word {
                    "true" => Token::Value(true.into()),
                    "false" => Token::Value(false.into()),
                    "null" => Token::Value(Value::Null),
                    word => Token::Word(word.to_owned()),
                };
                (token, length)
            } else {
                return Err(self.error(at, "this was not expected here"));
            };
            self.tokens.push((at, token));
            at += length;
        }
        Ok(())
    }

    /// A text in quotes, in which a backslash keeps a quote or backslash from ending it.
    fn text(&self, at: usize, quote: char) -> Result<(Token, usize)> {
        let mut text = String::new();
        let mut chars = self.query[at + 1..].char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                c if c == quote => return Ok((Token::Value(text.into()), index + 2)),
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) => text.push(c),
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err(self.error(at, "this text has no end; close it with the same quote"))
    }

    fn takes(&mut self, word: &str) -> bool {
        let is_it =
            matches!(self.tokens.get(self.next), Some((_, Token::Word(next))) if next.eq_ignore_ascii_case(word));
        self.next += usize::from(is_it);
        is_it
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.tokens.get(self.next), Some((_, Token::Sign(next))) if *next == sign);
        self.next += usize::from(is_it);
        is_it
    }

    fn any(&mut self) -> Result<Condition> {
        let mut all = vec![self.all()?];
        while self.takes("or") {
            all.push(self.all()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::Or(all) })
    }

    fn all(&mut self) -> Result<Condition> {
        let mut all = vec![self.one()?];
        while self.takes("and") {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::And(all) })
    }

    fn one(&mut self) -> Result<Condition> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(self.here(), "this is nested too deep"));
        }
        let condition = if self.takes("not") {
            Condition::Not(Box::new(self.one()?))
        } else if self.takes_sign("(") {
            let condition = self.any()?;
            if !self.takes_sign(")") {
                return Err(self.error(self.here(), "`)` was expected here"));
            }
            condition
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn value(&mut self) -> Result<Value> {
        match self.tokens.get(self.next) {
            Some((_, Token::Value(value))) => {
                let value = value.clone();
                self.next += 1;
                Ok(value)
            }
            Some((at, Token::Word(_))) => {
                Err(self.error(*at, "a value was expected here; a text is written in quotes"))
            }
            _ => Err(self.error(self.here(), "a value was expected here")),
        }
    }

    fn comparison(&mut self) -> Result<Condition> {
        let at = self.here();
        let Some((_, Token::Word(path))) = self.tokens.get(self.next) else {
            return Err(self.error(at, "the name of a property was expected here"));
        };
        let mut fields: Vec<String> = path.split('.').map(str::to_owned).collect();
        self.next += 1;
        let name = fields.remove(0);
        let compare = |operator, values| Condition::Compare(Comparison { name, fields, operator, values });
        if self.takes("in") {
            if !self.takes_sign("(") {
                return Err(self.error(self.here(), "`(` was expected here"));
            }
            let mut values = vec![self.value()?];
            while self.takes_sign(",") {
                values.push(self.value()?);
            }
            if !self.takes_sign(")") {
                return Err(self.error(self.here(), "`,` or `)` was expected here"));
            }
            return Ok(compare(Operator::In, values));
        }
        if self.takes("is") {
            let is_not = self.takes("not");
            let here = self.here();
            return match self.value() {
                Ok(Value::Null) if is_not => Ok(Condition::Not(Box::new(compare(Operator::IsNull, Vec::new())))),
                Ok(Value::Null) => Ok(compare(Operator::IsNull, Vec::new())),
                _ => Err(self.error(here, "`null` or `not null` was expected here")),
            };
        }
        let Some((_, Token::Sign(sign))) = self.tokens.get(self.next) else {
            return Ok(compare(Operator::IsTrue, Vec::new()));
        };
        let (operator, is_not) = match *sign {
            "=" | "==" => (Operator::Equal, false),
            "!=" | "<>" => (Operator::Equal, true),
            "<" => (Operator::Less, false),
            "<=" => (Operator::AtMost, false),
            ">" => (Operator::Greater, false),
            ">=" => (Operator::AtLeast, false),
            "~" => (Operator::Contains, false),
            _ => return Ok(compare(Operator::IsTrue, Vec::new())),
        };
        self.next += 1;
        let value = self.value()?;
        let condition = match value {
            Value::Null if operator == Operator::Equal => compare(Operator::IsNull, Vec::new()),
            value => compare(operator, vec![value]),
        };
        Ok(if is_not { Condition::Not(Box::new(condition)) } else { condition })
    }
}
