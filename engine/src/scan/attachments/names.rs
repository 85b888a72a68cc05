//! What a file's name says: by its last extension, as systems read it that run files
//! by their names.

use super::Kind;

/// Run by a click: programs, shortcuts, installers, settings, disk images. What Outlook and the
/// large providers block, sorted.
const EXECUTABLE: [&str; 51] = [
    "apk",
    "application",
    "appref-ms",
    "appx",
    "appxbundle",
    "chm",
    "class",
    "com",
    "cpl",
    "dex",
    "diagcab",
    "dll",
    "dmg",
    "drv",
    "exe",
    "gadget",
    "grp",
    "hlp",
    "img",
    "inf",
    "ins",
    "iso",
    "isp",
    "jar",
    "jnlp",
    "library-ms",
    "lnk",
    "msi",
    "msix",
    "msixbundle",
    "msp",
    "mst",
    "ocx",
    "osd",
    "pif",
    "pkg",
    "plg",
    "rdp",
    "reg",
    "scf",
    "scr",
    "search-ms",
    "settingcontent-ms",
    "sys",
    "theme",
    "url",
    "vhd",
    "vhdx",
    "vxd",
    "xbap",
    "xll",
];

/// Run by an interpreter that the system has for a click. Shell, Perl and Python scripts open in an
/// editor: not here.
const SCRIPT: [&str; 29] = [
    "bas", "bat", "cmd", "hta", "js", "jse", "mjs", "msc", "msh", "msh1", "msh1xml", "msh2",
    "msh2xml", "mshxml", "ps1", "ps1xml", "ps2", "ps2xml", "psc1", "psc2", "psd1", "psdm1", "psm1",
    "sct", "vb", "vbe", "vbs", "wsf", "wsh",
];

/// What is opened without fear.
const DOCUMENT: [&str; 38] = [
    "avi", "bmp", "csv", "doc", "docm", "docx", "eml", "gif", "heic", "htm", "html", "jpeg", "jpg",
    "m4a", "mov", "mp3", "mp4", "msg", "odp", "ods", "odt", "pdf", "png", "pps", "ppt", "pptx",
    "rar", "rtf", "svg", "tif", "tiff", "txt", "wav", "webp", "xls", "xlsx", "xml", "zip",
];

/// So much of a name is looked at, its end; no file system takes more between two slashes.
pub const NAME_BYTES_MAX: usize = 256;

pub fn kinds(name: &str) -> Vec<Kind> {
    let name = super::tail(name, NAME_BYTES_MAX);
    let mut kinds = Vec::new();
    if name.chars().any(turns) {
        kinds.push(Kind::TurnedName);
    }
    let visible: String = name.chars().filter(|c| !turns(*c) && !c.is_control()).collect();
    let base = visible.rsplit(['/', '\\']).next().unwrap_or_default().to_lowercase();
    // Windows drops dots and spaces at the end, and a stream's name behind a colon.
    let base = base.split(':').next().unwrap_or_default();
    let mut extensions = base.trim_end_matches(['.', ' ']).rsplit('.').map(str::trim);
    let last = extensions.next().unwrap_or_default();
    let Some(before) = extensions.next() else { return kinds };
    let dangerous = if EXECUTABLE.binary_search(&last).is_ok() {
        Kind::Executable
    } else if SCRIPT.binary_search(&last).is_ok() {
        Kind::Script
    } else {
        return kinds;
    };
    kinds.push(dangerous);
    if extensions.next().is_some() && DOCUMENT.binary_search(&before).is_ok() {
        kinds.push(Kind::DoubleExtension);
    }
    kinds
}

/// Turns the direction of what follows (Unicode, UAX 9): overrides, embeddings and isolates. The
/// plain marks, which names in Arabic and Hebrew have, turn nothing around.
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        assert!(EXECUTABLE.is_sorted() && SCRIPT.is_sorted() && DOCUMENT.is_sorted());
    }

    #[test]
    fn a_name_is_read_as_the_system_that_runs_it_reads_it() {
        use Kind::{DoubleExtension, Executable, Script, TurnedName};
        let cases: &[(&str, &[Kind])] = &[
            ("report.pdf", &[]),
            ("exe", &[]),
            ("a.exe.txt", &[]),
            ("readme.com.pdf", &[]),
            ("setup.exe", &[Executable]),
            ("SETUP.EXE", &[Executable]),
            ("setup.exe. . ", &[Executable]),
            ("setup.exe::$DATA", &[Executable]),
            ("C:\\x\\setup.exe", &[Executable]),
            ("dir/setup.scr", &[Executable]),
            ("run.js", &[Script]),
            ("kura-1.0.jar", &[Executable]),
            ("invoice.pdf.exe", &[Executable, DoubleExtension]),
            ("invoice.pdf            .exe", &[Executable, DoubleExtension]),
            ("photo.jpg.vbs", &[Script, DoubleExtension]),
            ("invoice\u{202e}fdp.exe", &[TurnedName, Executable]),
            ("invoice\u{202e}xcod.docx", &[TurnedName]),
            ("a\0.e\u{7}xe", &[Executable]),
            ("שלום\u{200f}.pdf", &[]),
            ("", &[]),
            (".exe", &[Executable]),
        ];
        for (name, expected) in cases {
            assert_eq!(kinds(name), *expected, "{name:?}");
        }
        assert_eq!(kinds(&format!("{}.exe", "ä".repeat(5000))), [Executable]);
    }
}
