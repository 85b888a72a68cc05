//! That no two kinds of records share a key space. Each names its own (`const SPACE`), beside the code that reads it; FORMAT.md
//! says what is in them.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn key_spaces_differ() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let mut by_number: BTreeMap<String, PathBuf> = BTreeMap::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| line.starts_with("pub const SPACE: ")) {
                let number = line.rsplit_once('(').unwrap().1.trim_end_matches(");").to_owned();
                if let Some(other) = by_number.insert(number.clone(), file.clone()) {
                    panic!("{} and {} both have {number}", other.display(), file.display());
                }
            }
        }
        assert!(by_number.len() >= 17, "{by_number:?}");
    }
}
