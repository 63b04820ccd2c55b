use super::*;

#[test]
fn every_scenario_of_the_folder_is_built_in_and_makes_sense() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(files, known);
    for name in known {
        let mut scenario = Scenario::load(name).expect(name);
        scenario.workload.shrink();
        scenario.workload.check().expect("a small one makes sense, too");
    }
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let good = "title = 'x'\nruns = 1\n[fanout]\nchannels = [1]\nsubscribers = [10]\nrates = [1]\npayloads = [20]\nwarm-up = '1s'\nmeasure = '1s'\n";
    Scenario::parse("good", good).expect("a scenario");
    for (from, to, reason) in [
        ("runs = 1", "runs = 0", "runs is 0"),
        ("payloads = [20]", "payloads = [19]", "20 to 60000 bytes"),
        ("rates = [1]", "rates = []", "need a value"),
        ("rates = [1]", "rates = [0]", "0.001 to"),
        ("subscribers = [10]", "subscribers = [0]", "has to be 1 to"),
        ("title = 'x'", "title = 'x'\nspeed = 1", "speed"),
        ("measure = '1s'", "measure = 'soon'", "soon"),
        ("measure = '1s'", "measure = '2h'", "is the most"),
        ("rates = [1]", "rates = [1]\ndeliveries = [1]", "together"),
        ("rates = [1]", "", "need a value"),
        ("rates = [1]", "rates = [1]\nshards = [0]", "shards has to be"),
        ("rates = [1]", "rates = [1]\ncore-percent = 5", "core-percent has to be"),
    ] {
        let text = good.replace(from, to);
        let error = format!("{:#}", Scenario::parse("bad", &text).expect_err(to));
        assert!(error.contains(reason), "{to}: {error}");
    }
}

#[test]
fn an_unknown_name_tells_the_known_ones() {
    let error = format!("{:#}", Scenario::load("fanuot").expect_err("no such scenario"));
    assert!(error.contains("fanout"), "{error}");
}

#[test]
fn growth_holds_the_deliveries_and_not_the_messages() {
    let Workload::Fanout(fanout) = Scenario::load("growth-subscribers").expect("built in").workload else {
        panic!("it fans out")
    };
    let deliveries: Vec<f64> = fanout
        .subscribers
        .iter()
        .flat_map(|&count| fanout.paces(count).into_iter().map(move |pace| pace.rate * f64::from(count)))
        .collect();
    assert!(deliveries.len() >= 3 && deliveries.windows(2).all(|two| (two[0] - two[1]).abs() < 1e-6));
    assert_eq!((fanout.subscribers.first(), fanout.subscribers.last()), (Some(&100), Some(&15_000)));
}
