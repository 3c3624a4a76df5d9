//! `config`, under both names, in a home folder where nothing is yet.

use crate::{Folder, failed, well};

#[test]
fn configs_are_kept_in_a_clean_home() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("lab.json"), r#"{"dataplane":{"inferHost":"a:1"}}"#).expect("write");
    std::fs::write(folder.path().join("bad.json"), "{").expect("write");
    let seldon = |arguments: &str| folder.run("seldon", &[], &format!("config {arguments}"));
    assert!(!folder.path().join("home").exists());
    assert_eq!(well(seldon("add lab lab.json")), "");
    let registry =
        std::fs::read_to_string(folder.path().join("home/.config/seldon/cli/configs.json")).expect("written");
    let registry: serde_json::Value = serde_json::from_str(&registry).expect("JSON");
    let path = folder.path().canonicalize().expect("a path").join("lab.json");
    assert_eq!(
        registry["configs"]["lab"].as_str().map(std::path::PathBuf::from).and_then(|p| p.canonicalize().ok()),
        Some(path)
    );
    assert_eq!(registry["active"], "");
    let row = |said: &str| said.lines().nth(2).map(|row| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let list = well(seldon("list"));
    assert_eq!(row(&list).map(|row| (row.len(), row[0].clone())), Some((2, "lab".to_owned())), "{list}");
    assert_eq!(well(seldon("activate lab")), "");
    let list = well(seldon("list"));
    assert_eq!(row(&list).and_then(|row| row.get(2).cloned()).as_deref(), Some("*"), "{list}");
    assert_eq!(well(seldon("list lab")), "{\n\t\"dataplane\": {\n\t\t\"inferHost\": \"a:1\"\n\t}\n}\n");
    for (arguments, word) in [
        ("activate nosuch", "config nosuch is not known"),
        ("remove nosuch", "config nosuch is not known"),
        ("deactivate nosuch", "config nosuch is not known"),
        ("list nosuch", "config nosuch is not known"),
        ("add bad bad.json", "bad.json is no configuration"),
        ("add none none.json", "none.json"),
    ] {
        assert!(failed(seldon(arguments)).contains(word), "{arguments}");
    }
    // The other name has the same ones.
    let list = well(folder.run("switchyard", &[], "config list"));
    assert!(list.contains('*'), "{list}");
    assert_eq!(well(seldon("deactivate lab")), "");
    assert!(failed(seldon("deactivate lab")).contains("config lab is not active: none is"));
    assert_eq!(well(folder.run("switchyard", &[], "config remove lab")), "");
    assert_eq!(well(seldon("list")).lines().count(), 2);
    let (code, _, err) = folder.run("switchyard", &[], "config remove lab");
    assert!(code == Some(1) && err.contains("config lab is not known"), "{err}");
}

#[test]
fn home_is_the_variable() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("lab.json"), "{}").expect("write");
    let other = folder.path().join("elsewhere").display().to_string();
    well(folder.run("seldon", &[("HOME", &other)], "config add lab lab.json"));
    assert!(folder.path().join("elsewhere/.config/seldon/cli/configs.json").is_file());
    let said = failed(folder.run("seldon", &[("HOME", "")], "config list"));
    assert!(said.contains("$HOME is not set"), "{said}");
}
