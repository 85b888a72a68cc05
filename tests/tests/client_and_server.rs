//! Our client against our server, in virtual time, with every combination of what a server may
//! offer: the reply to EHLO is cut down on its way.

use kura_tests::laws::{Session, Subject, cut_at_random};
use kura_tests::random::Random;
use kura_tests::subjects::{
    ImapClientSubject, ImapSubject, Pop3ClientSubject, Pop3Subject, SmtpClientFacts,
    SmtpClientSubject, SmtpSubject, parcel,
};
use protocols::smtp::Role;
use protocols::smtp::client::{Outcome, Verdict};

/// What may be missing.
const KEYWORDS: [&str; 8] = [
    "PIPELINING",
    "CHUNKING",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "SIZE",
    "STARTTLS",
    "ENHANCEDSTATUSCODES",
];

struct Between {
    client: Session<SmtpClientSubject>,
    server: Session<SmtpSubject>,
    /// Keywords that are taken out.
    without: usize,
    random: Random,
    /// How often the client has sent something.
    flights: usize,
    /// What it sent.
    commands: Vec<u8>,
}

impl Between {
    fn new(facts: SmtpClientFacts, role: Role, without: usize) -> Between {
        Between {
            client: Session::accepted(SmtpClientSubject::new(facts)),
            server: Session::accepted(SmtpSubject::new(role, false, false)),
            without,
            random: Random::new(without as u64),
            flights: 0,
            commands: Vec::new(),
        }
    }

    fn filtered(&self, said: &[u8]) -> Vec<u8> {
        let text = String::from_utf8(said.to_vec()).unwrap();
        if !text.starts_with("250-mx.example.test\r\n") {
            return said.to_vec();
        }
        let missing = |line: &str| {
            let keyword = |(at, keyword): (usize, &&str)| {
                self.without & (1 << at) != 0 && line[4..].starts_with(keyword)
            };
            KEYWORDS.iter().enumerate().any(keyword)
        };
        let mut lines: Vec<String> =
            text.lines().filter(|line| !missing(line)).map(str::to_owned).collect();
        let last = lines.len() - 1;
        for (at, line) in lines.iter_mut().enumerate() {
            line.replace_range(3..4, if at == last { " " } else { "-" });
            line.push_str("\r\n");
        }
        lines.concat().into_bytes()
    }

    fn run(&mut self) {
        self.run_with(|said| said);
    }

    /// `change` stands between what the server says and what the client hears.
    fn run_with(&mut self, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        for _ in 0..10_000 {
            let said = self.server.take_said();
            let said = change(self.filtered(&said));
            for piece in cut_at_random(&said, &mut self.random) {
                self.client.feed(piece);
            }
            self.server.handshake();
            self.client.handshake();
            let said = self.client.take_said();
            self.flights += usize::from(!said.is_empty());
            self.commands.extend_from_slice(&said);
            for piece in cut_at_random(&said, &mut self.random) {
                self.server.feed(piece);
            }
            if self.client.is_closed() {
                return;
            }
        }
        panic!("no end: {:?} {:?}", self.client.trace, self.server.trace);
    }

    fn verdicts(&self) -> Vec<(Outcome, String)> {
        let shown = |verdict: &Verdict| (verdict.outcome, verdict.status.to_string());
        let reports = &self.client.subject.reports;
        reports.iter().flat_map(|report| report.verdicts.iter().map(shown)).collect()
    }
}

fn facts(lmtp: bool, names: &[&str]) -> SmtpClientFacts {
    let parcels = names.iter().map(|name| parcel(name)).collect();
    SmtpClientFacts { lmtp, parcels, ..SmtpClientFacts::default() }
}

fn offered(without: usize, keyword: &str) -> bool {
    let at = KEYWORDS.iter().position(|one| *one == keyword).unwrap();
    without & (1 << at) == 0
}

const TAKEN: (Outcome, &str) = (Outcome::Delivered, "2.0.0");
/// Not needing anything, a message goes through whatever is missing.
const PLAIN: &[&str] =
    &["one", "dots", "several", "nobody", "bounce", "busy", "full", "loop", "large"];

#[test]
fn messages_arrive_whatever_is_offered() {
    for without in 0..1 << KEYWORDS.len() {
        let mut between = Between::new(facts(false, PLAIN), Role::Mx, without);
        between.run();
        let status = |enhanced: &'static str| enhanced.to_owned();
        let expected = [
            TAKEN,
            TAKEN,
            TAKEN,
            (Outcome::Failed, "5.1.1"),
            TAKEN,
            (Outcome::Failed, "5.1.1"),
            (Outcome::Later, "4.2.2"),
            TAKEN,
            (Outcome::Later, "4.3.0"),
            (Outcome::Later, "4.3.1"),
            (Outcome::Failed, "5.4.6"),
            TAKEN,
        ];
        let expected: Vec<_> =
            expected.into_iter().map(|(outcome, enhanced)| (outcome, status(enhanced))).collect();
        assert_eq!(between.verdicts(), expected, "without {without:08b}");
        let taken = between.server.subject.taken.as_deref();
        assert_eq!(taken, Some(parcel("large").message.as_slice()), "without {without:08b}");
        let dots = b".\r\n..\r\n.\r\nbare cr\r\n.end\r\n".as_slice();
        let mut alone = Between::new(facts(false, &["dots"]), Role::Mx, without);
        alone.run();
        assert_eq!(alone.server.subject.taken.as_deref(), Some(dots), "without {without:08b}");
        let tls = alone.client.subject.is_encrypted();
        assert_eq!(tls, offered(without, "STARTTLS"), "without {without:08b}");
    }
}

#[test]
fn what_is_missing_is_said_and_nothing_is_left_out() {
    for without in 0..1 << KEYWORDS.len() {
        let names = ["eight_bit", "utf8", "utf8_recipient", "require_tls", "notices"];
        let mut between = Between::new(facts(false, &names), Role::Mx, without);
        between.run();
        let needs = |wanted: &[(&str, &str)]| {
            let missing = wanted.iter().find(|(keyword, _)| !offered(without, keyword));
            match missing {
                Some((_, status)) => (Outcome::Failed, (*status).to_owned()),
                None => (Outcome::Delivered, "2.0.0".to_owned()),
            }
        };
        let expected = [
            needs(&[("8BITMIME", "5.6.3")]),
            needs(&[("SMTPUTF8", "5.6.7"), ("8BITMIME", "5.6.3")]),
            needs(&[]),
            needs(&[("SMTPUTF8", "5.6.7")]),
            // Offered over TLS alone.
            needs(&[("STARTTLS", "5.7.30")]),
            needs(&[]),
        ];
        assert_eq!(between.verdicts(), expected, "without {without:08b}");
        let said = String::from_utf8_lossy(&between.commands).into_owned();
        for (keyword, written) in [
            ("SIZE", " SIZE=23 RET"),
            ("DSN", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;ann+3Dx@there.test\r\n"),
            ("8BITMIME", " BODY=8BITMIME"),
            ("SMTPUTF8", " SMTPUTF8\r\n"),
            ("STARTTLS", "STARTTLS\r\n"),
        ] {
            let wanted =
                offered(without, keyword) && (keyword != "SIZE" || offered(without, "DSN"));
            assert_eq!(said.contains(written), wanted, "{keyword}, without {without:08b}: {said}");
        }
        let reports = &between.client.subject.reports;
        assert!(reports.iter().all(|report| report.dsn == offered(without, "DSN")));
    }
}

#[test]
fn lmtp_recipients_are_decided_one_by_one_whatever_is_offered() {
    for without in 0..1 << KEYWORDS.len() {
        let names = ["late", "several", "nobody", "one"];
        let mut between = Between::new(facts(true, &names), Role::Lmtp, without);
        between.run();
        let expected = [
            TAKEN,
            (Outcome::Later, "4.2.2"),
            TAKEN,
            TAKEN,
            (Outcome::Failed, "5.1.1"),
            TAKEN,
            (Outcome::Failed, "5.1.1"),
            (Outcome::Later, "4.2.2"),
            TAKEN,
        ];
        let expected: Vec<_> =
            expected.map(|(outcome, status)| (outcome, status.to_owned())).into();
        assert_eq!(between.verdicts(), expected, "without {without:08b}");
    }
}

/// A round trip is what delivery over long distances costs.
#[test]
fn few_flights_are_needed() {
    let flights = |keywords: &[&str]| {
        let at = |keyword| KEYWORDS.iter().position(|one| *one == keyword).unwrap();
        let without = keywords.iter().fold(0, |without, keyword| without | 1 << at(*keyword));
        let mut between = Between::new(facts(false, &["several"]), Role::Mx, without);
        between.run();
        assert_eq!(between.verdicts().len(), 3);
        between.flights
    };
    // EHLO, the message, QUIT.
    assert_eq!(flights(&["STARTTLS"]), 3);
    // MAIL to DATA leave together, and then the message.
    assert_eq!(flights(&["STARTTLS", "CHUNKING"]), 4);
    // MAIL, three recipients, DATA, the message.
    assert_eq!(flights(&["STARTTLS", "PIPELINING"]), 8);
    // STARTTLS and EHLO once more.
    assert_eq!(flights(&[]), 5);
}

/// More recipients than the server takes in a transaction, and than may be unanswered at a time.
#[test]
fn a_crowd_is_brought_as_far_as_the_server_takes_it() {
    for without in [0, 1, 2, 3] {
        let mut between = Between::new(facts(false, &["crowd"]), Role::Mx, without);
        between.run();
        let verdicts = between.verdicts();
        let taken = verdicts.iter().filter(|(outcome, _)| *outcome == Outcome::Delivered).count();
        let later = verdicts.iter().filter(|one| **one == (Outcome::Later, "4.5.3".into())).count();
        assert_eq!((taken, later), (5, 145), "without {without:08b}");
    }
}

#[test]
fn our_server_lets_our_client_in_by_each_mechanism() {
    for (keep, login) in
        [("SCRAM-SHA-256", "password"), ("PLAIN", "password"), ("LOGIN", "password")]
    {
        let facts = SmtpClientFacts {
            login: Some(login.into()),
            tls: "required".into(),
            ..facts(false, &["one"])
        };
        let mut between = Between::new(facts, Role::Submission, 0);
        between.run_with(|said| {
            let text = String::from_utf8(said).unwrap();
            let offered = "AUTH SCRAM-SHA-256 PLAIN LOGIN";
            text.replace(offered, &format!("AUTH {keep}")).into_bytes()
        });
        assert_eq!(between.verdicts(), [(Outcome::Delivered, "2.0.0".to_owned())], "{keep}");
        let said = String::from_utf8_lossy(&between.commands).into_owned();
        assert!(said.contains(&format!("AUTH {keep}")), "{said}");
    }
}

/// Lets both talk to the end; gives what the client told.
fn converse<C: Subject, S: Subject>(
    client: &mut Session<C>,
    server: &mut Session<S>,
) -> Vec<String> {
    let mut random = Random::new(1);
    let mut told = Vec::new();
    for _ in 0..10_000 {
        let said = server.take_said();
        cut_at_random(&said, &mut random).into_iter().for_each(|piece| client.feed(piece));
        server.handshake();
        client.handshake();
        let (said, events) = client.take_said_and_asked();
        told.extend(events);
        cut_at_random(&said, &mut random).into_iter().for_each(|piece| server.feed(piece));
        if client.is_closed() {
            return told;
        }
    }
    panic!("no end: {told:?}");
}

#[test]
fn our_pop3_client_empties_our_maildrop() {
    let mut client = Session::accepted(Pop3ClientSubject::new("required", "password"));
    let mut server = Session::accepted(Pop3Subject::new(false, false));
    let told = converse(&mut client, &mut server);
    let expected = [
        "Listed [1=1.1 42, 2=1.2 30, 3=1.3 37, 4=1.4 26, 5=1.5 23], repeated []",
        r"Retrieved 1, 42: Subject: one\r\n\r\nFirst line\r\n.second line\r\n",
        "Deleted 1",
        r"Retrieved 2, 32: Subject: two\r\n\r\nNo end of line\r\n",
        "Deleted 2",
        r"Retrieved 3, 42: Subject: three\r\n\r\nBare ends\r\n.\r\nof lines\r\n",
        "Deleted 3",
        "Refused 4: [SYS/PERM] That message is damaged",
        "Deleted 4",
        "Refused 5: That message is gone",
        "Deleted 5",
        "Left, committed: true",
    ];
    assert_eq!(told, expected);
    assert_eq!(server.subject.removed, Some(vec![0, 1, 2, 3, 4]));
}

/// The server's machine alone, which has no store under it: all that is opened is there, and empty.
#[test]
fn our_imap_client_gets_into_our_server() {
    for (tls, secret) in [("required", "password"), ("never", "careless")] {
        let mut client = Session::accepted(ImapClientSubject::new(tls, secret, "open"));
        let mut server = Session::accepted(ImapSubject::new(false, true));
        let told = converse(&mut client, &mut server);
        assert_eq!(told.first().map(String::as_str), Some("Ready"), "{told:?}");
        assert!(told[1].starts_with("Opened { uid_validity: "), "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("Left"), "{told:?}");
    }
}
