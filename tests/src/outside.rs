//! Servers that mail is collected from, in memory: they know which messages there ever were and
//! which they have deleted, and do what servers should not.

use crate::random::Random;

/// A message there.
#[derive(Debug, Clone)]
struct Kept {
    /// What UIDL says, or the UID.
    name: u32,
    number: u32,
}

/// A mailbox over there, whatever becomes of the sessions in it.
#[derive(Debug)]
pub struct Outside {
    protocol: Protocol,
    random: Random,
    kept: Vec<Kept>,
    name_next: u32,
    uid_validity: u32,
    /// Messages that there ever were: 0 to here.
    pub numbers: u32,
    pub deleted: Vec<u32>,
    /// Whether it lies, breaks off and gives names twice.
    pub is_honest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Pop3,
    Imap,
}

/// A message as it is over there; no two are the same.
#[must_use]
pub fn octets(number: u32) -> Vec<u8> {
    let line = format!("line of {number}\r\n.dot\r\n");
    let lines = match number % 9 {
        4 => 2500,
        _ => 3 + number as usize % 40,
    };
    format!("Subject: number {number}\r\n\r\n{}", line.repeat(lines)).into_bytes()
}

/// Which one it is.
#[must_use]
pub fn number_of(octets: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(octets).ok()?.split_once("Subject: number ")?.1;
    text.split("\r\n").next()?.parse().ok()
}

impl Outside {
    #[must_use]
    pub fn new(protocol: Protocol, seed: u64) -> Outside {
        Outside {
            protocol,
            random: Random::new(seed),
            kept: Vec::new(),
            name_next: 1,
            uid_validity: 1,
            numbers: 0,
            deleted: Vec::new(),
            is_honest: false,
        }
    }

    /// Mail comes, and the server may lose its memory for names.
    pub fn next_day(&mut self) {
        for _ in 0..self.random.below(6) {
            let reuses = self.protocol == Protocol::Pop3 && self.random.below(4) == 0;
            let is_free = |name: &u32| self.kept.iter().all(|kept| kept.name != *name);
            let reused = (1..self.name_next).find(is_free).filter(|_| reuses);
            let name = reused.unwrap_or(self.name_next);
            self.name_next = self.name_next.max(name + 1);
            self.kept.push(Kept { name, number: self.numbers });
            self.numbers += 1;
        }
        if self.random.below(4) == 0 {
            self.uid_validity += 1;
            for kept in &mut self.kept {
                kept.name = self.name_next;
                self.name_next += 1;
            }
        }
    }

    fn delete(&mut self, names: &[u32]) {
        let is_gone = |kept: &Kept| names.contains(&kept.name);
        self.deleted.extend(self.kept.iter().filter(|kept| is_gone(kept)).map(|kept| kept.number));
        self.kept.retain(|kept| !is_gone(kept));
    }

    #[must_use]
    pub fn session(&mut self) -> Session {
        let breaks = !self.is_honest && self.random.below(3) == 0;
        let left = if breaks { 200 + self.random.below(20_000) } else { usize::MAX };
        let commits_when_lost = !self.is_honest && self.random.below(3) == 0;
        Session {
            left,
            commits_when_lost,
            held: self.kept.clone(),
            marked: Vec::new(),
            rest: Vec::new(),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    /// Octets until it breaks.
    left: usize,
    commits_when_lost: bool,
    held: Vec<Kept>,
    marked: Vec<u32>,
    rest: Vec<u8>,
}

impl Session {
    #[must_use]
    pub fn greeting(&self, outside: &Outside) -> Vec<u8> {
        match outside.protocol {
            Protocol::Pop3 => b"+OK\r\n".to_vec(),
            Protocol::Imap => b"* OK\r\n".to_vec(),
        }
    }

    /// What is answered to `input`; `true`: that was all.
    pub fn hear(&mut self, outside: &mut Outside, input: &[u8]) -> (Vec<u8>, bool) {
        self.rest.extend_from_slice(input);
        let (mut said, mut over) = (Vec::new(), false);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n').filter(|_| !over) {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            over = match outside.protocol {
                Protocol::Pop3 => self.pop3(outside, &line, &mut said),
                Protocol::Imap => self.imap(outside, &line, &mut said),
            };
        }
        if said.len() >= self.left {
            said.truncate(self.left);
            over = true;
        }
        self.left -= said.len().min(self.left);
        (said, over)
    }

    /// The connection has ended without goodbye.
    pub fn lost(&mut self, outside: &mut Outside) {
        // RFC 1939 section 6 says that nothing is deleted then; not every server has read it.
        if self.commits_when_lost {
            outside.delete(&self.marked);
        }
        self.marked.clear();
    }

    fn pop3(&mut self, outside: &mut Outside, line: &str, said: &mut Vec<u8>) -> bool {
        let mut say = |text: &str| said.extend_from_slice(format!("{text}\r\n").as_bytes());
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let at = |rest: &str| rest.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        match verb {
            "CAPA" => say("+OK\r\nUSER\r\nUIDL\r\n."),
            "STAT" => say(&format!("+OK {} 0", self.held.len())),
            "UIDL" | "LIST" => {
                say("+OK");
                for (number, kept) in (1..).zip(&self.held) {
                    let what =
                        if verb == "UIDL" { kept.name as usize } else { octets(kept.number).len() };
                    say(&format!("{number} {what}"));
                }
                say(".");
            }
            "RETR" => match at(rest).and_then(|at| self.held.get(at)) {
                Some(kept) => {
                    let text =
                        String::from_utf8_lossy(&octets(kept.number)).replace("\r\n.", "\r\n..");
                    say(&format!("+OK\r\n{text}."));
                }
                None => say("-ERR"),
            },
            "DELE" => {
                self.marked.extend(at(rest).and_then(|at| self.held.get(at)).map(|kept| kept.name));
                say("+OK");
            }
            "QUIT" => {
                outside.delete(&std::mem::take(&mut self.marked));
                say("+OK");
                return true;
            }
            _ => say("+OK"),
        }
        false
    }

    fn imap(&mut self, outside: &mut Outside, line: &str, said: &mut Vec<u8>) -> bool {
        let mut say = |text: &str| said.extend_from_slice(format!("{text}\r\n").as_bytes());
        let words: Vec<&str> = line.split(' ').collect();
        let (tag, verb) = (words[0], words.get(1).copied().unwrap_or_default());
        let sub = words.get(2).copied().unwrap_or_default();
        let set = || ranges(words.get(3).copied().unwrap_or_default());
        match (verb, sub) {
            ("CAPABILITY", _) => say("* CAPABILITY IMAP4rev1 UIDPLUS"),
            ("SELECT" | "EXAMINE", _) => {
                say(&format!("* OK [UIDVALIDITY {}] valid", outside.uid_validity));
                self.held = outside.kept.clone();
            }
            ("UID", "SEARCH") => {
                let uids: Vec<String> =
                    self.held.iter().map(|kept| kept.name.to_string()).collect();
                say(&format!("* SEARCH {}", uids.join(" ")));
            }
            ("UID", "FETCH") => {
                for kept in self.held.iter().filter(|kept| contains(&set(), kept.name)) {
                    let text = String::from_utf8_lossy(&octets(kept.number)).into_owned();
                    let (uid, length) = (kept.name, text.len());
                    let body = match line.contains("BODY") {
                        true => format!(" BODY[] {{{length}}}\r\n{text}"),
                        false => String::new(),
                    };
                    say(&format!("* 1 FETCH (UID {uid} RFC822.SIZE {length} FLAGS (){body})"));
                }
            }
            ("UID", "STORE") => {
                let names = self.held.iter().map(|kept| kept.name);
                self.marked.extend(names.filter(|name| contains(&set(), *name)));
            }
            ("UID", "EXPUNGE") => {
                let names = std::mem::take(&mut self.marked);
                let names: Vec<u32> =
                    names.into_iter().filter(|name| contains(&set(), *name)).collect();
                outside.delete(&names);
            }
            ("LOGOUT", _) => {
                say(&format!("* BYE\r\n{tag} OK"));
                return true;
            }
            _ => {}
        }
        say(&format!("{tag} OK"));
        false
    }
}

fn ranges(text: &str) -> Vec<(u32, u32)> {
    let range = |piece: &str| {
        let (first, last) = piece.split_once(':').unwrap_or((piece, piece));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

fn contains(ranges: &[(u32, u32)], name: u32) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&name))
}
