use std::path::Path;

use super::*;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

#[test]
fn every_scenario_can_be_played() {
    let scenarios = Scenario::load_all(&folder()).unwrap();
    let mut titles = BTreeSet::new();
    for scenario in &scenarios {
        assert!(titles.insert(scenario.title.clone()), "two scenarios are called {}", scenario.title);
        assert!(
            !scenario.about.contains('|') && scenario.about.ends_with('.'),
            "{}: {}",
            scenario.name,
            scenario.about
        );
    }
}

/// Whoever writes a scenario finds every step described.
#[test]
fn every_step_is_described() {
    let page = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let source = include_str!("../scenario.rs");
    let steps = source.split_once("pub enum Step {").unwrap().1.split_once("\n}").unwrap().0;
    let mut count = 0;
    for line in steps.lines().map(str::trim).filter(|line| line.contains('(')) {
        let name = line.split_once('(').unwrap().0;
        let mut kebab = String::new();
        for (index, c) in name.char_indices() {
            if index > 0 && c.is_ascii_uppercase() {
                kebab.push('-');
            }
            kebab.push(c.to_ascii_lowercase());
        }
        assert!(page.contains(&format!("| `{kebab}` |")), "scenarios/README.md does not describe {kebab}");
        count += 1;
    }
    assert_eq!(count, 28);
    let contract = include_str!("../../../DRIVER.md");
    for capability in CAPABILITIES {
        assert!(contract.contains(&format!("| `{capability}` |")), "DRIVER.md does not describe {capability}");
    }
}

#[test]
fn what_is_touched_is_known_for_each_client() {
    let text = r#"
        title = "t"
        about = "a"
        steps = [
          { do = "connect", client = "a" },
          { do = "connect", client = "b" },
          { do = "connect", client = "c" },
          { do = "network", client = "b", is = "cut" },
          { do = "frames", client = "c", frame = "ping", count = 1 },
          { do = "network", client = "c", is = "hold" },
        ]"#;
    let scenario = Scenario::parse("t", text).unwrap();
    let touches = ["a", "b", "c"].map(|client| scenario.touch(client));
    assert_eq!(touches, [Touch::Nothing, Touch::Connections, Touch::Frames]);
}

#[test]
fn what_cannot_be_played_is_refused() {
    let check = |head: &str, steps: &str, expect: &str| {
        let text = format!(
            "title = \"t\"\nabout = \"a\"\n{head}\nchannels = [{{ name = \"room\", members = {{ alice = \"owner\" }} }}]\n\
             steps = [\n{{ do = \"connect\", client = \"a\" }},\n{steps}\n]"
        );
        match Scenario::parse("t", &text) {
            Ok(_) => panic!("{steps} passed"),
            Err(error) => assert!(format!("{error:#}").contains(expect), "{steps}: {error:#}"),
        }
    };
    check("", "{ do = \"sing\" }", "unknown variant `sing`");
    check("", "{ do = \"close\", client = \"a\", loudly = true }", "unknown field `loudly`");
    check("", "{ do = \"close\", client = \"b\" }", "no client is called b");
    check("", "{ do = \"connect\", client = \"a\" }", "client a is there already");
    check("", "{ do = \"connect\", client = \"b\", token = \"1h\", provider = [\"1h\"] }", "either token or provider");
    check("", "{ do = \"connect\", client = \"b\", provider = [\"1h\"] }", "needs the capability token-provider");
    check("", "{ do = \"connect\", client = \"b\", options = { queue_messages = 1 } }", "needs the capability queue");
    check("", "{ do = \"connect\", client = \"b\", options = { color = 1 } }", "no option is called color");
    check("", "{ do = \"pause\", client = \"a\", channel = \"room\" }", "needs the capability pause");
    check("", "{ do = \"await\", call = \"x\" }", "no call is called x");
    check("", "{ do = \"read\", client = \"a\", channel = \"room\" }", "either text or count");
    check("", "{ do = \"send\", client = \"a\", channel = \"room\" }", "one of text, texts, base64 and count");
    check(
        "",
        "{ do = \"send\", client = \"a\", channel = \"room\", text = \"x\", bytes = 9 }",
        "bytes goes with count",
    );
    check("", "{ do = \"archive\", channel = \"hall\" }", "no channel is called hall");
    check("", "{ do = \"kill\" }", "a server that others use must live");
    check("server = { own = true }", "{ do = \"kill\", node = \"data\" }", "no node is called data");
    check("server = { apart = true }", "{ do = \"kill\" }", "no node is called dev");
    check("", "{ do = \"fill\", channel = \"room\", user = \"alice\", bytes = 1, until = \"x\" }", "a shared server");
    check("needs = [\"wings\"]", "{ do = \"close\", client = \"a\" }", "no capability is called wings");
    check("not_over = { ws = \"\" }", "{ do = \"close\", client = \"a\" }", "why not over ws?");
    check("not_over = { tcp = \"No.\" }", "{ do = \"close\", client = \"a\" }", "unknown variant `tcp`");
    let nowhere = "not_over = { ws = \"a.\", wss = \"b.\", quic = \"c.\", webtransport = \"d.\" }";
    check(nowhere, "{ do = \"close\", client = \"a\" }", "there is a transport");
    let moved = "{ do = \"network\", client = \"a\", is = \"move\" }";
    check("", moved, "over TCP ends with its address");
    let not_over_tcp = "not_over = { ws = \"a.\", wss = \"b.\" }";
    check(
        not_over_tcp,
        &format!("{moved},\n{{ do = \"frames\", client = \"a\", frame = \"ping\", count = 1 }}"),
        "left alone",
    );
    let twice = "{ do = \"send\", client = \"a\", channel = \"room\", text = \"x\" },\n\
                 { do = \"publish\", channel = \"room\", user = \"alice\", texts = [\"y\", \"x\"] }";
    check("", twice, "comes twice");
}
