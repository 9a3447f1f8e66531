//! How a command finds the gateway that it asks and the token that it shows, and what it says to words that mean nothing.

use crate::{Desk, Gateway, Said, TOKEN};

/// What a command says that goes without a token.
const WITHOUT: &str = "asked without an admin token";

#[test]
fn a_broken_configuration_keeps_nobody_from_asking_a_gateway_that_is_named() {
    let desk = Desk::new();
    let gateway = Gateway::guarded_by(desk.spool(), None);
    let named = gateway.admin.to_string();
    for broken in ["listen = ", "listne = \"127.0.0.1:9\"\nspol = 1\n"] {
        desk.write("hookgate.toml", broken);
        for command in ["status", "events list", "dlq list", "dlq export", "dlq job", "reload"] {
            let words: Vec<&str> = command.split_whitespace().collect();
            let by_flag = desk.run(&[words.clone(), vec!["--admin", &named]].concat());
            let by_variable = Said::of(desk.command(&words).env("HOOKGATE_ADMIN", &named).output().unwrap());
            for said in [by_flag, by_variable] {
                assert_eq!(said.code, 0, "{command}: {said:?}");
                let lines: Vec<&str> = said.err.lines().filter(|line| !line.starts_with("no ")).collect();
                assert_eq!(lines.len(), 1, "{command}: {said:?}");
                assert!(lines[0].contains(WITHOUT) && lines[0].contains("hookgate.toml:1:"), "{command}: {said:?}");
            }
        }
        desk.run(&["explain", "--last", "--admin", &named]).failed(1, WITHOUT);
        desk.run(&["status"]).failed(78, "hookgate.toml:1:");
        let given =
            Said::of(desk.command(&["status", "--admin", &named]).env("HOOKGATE_ADMIN_TOKEN", TOKEN).output().unwrap());
        assert_eq!((given.code, given.err.as_str()), (0, ""), "a token that is given needs no configuration");
    }
    let said = desk.run(&["status", "--admin", &named, "--config", "none.toml"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains(WITHOUT) && said.err.contains("none.toml"), "{said:?}");
}

/// Asks a gateway for its status with what `etc/hookgate.toml` says of its token, in a shell that has not the routes' secrets.
fn with_token_of(desk: &Desk, gateway: &Gateway, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = desk.command(&[arguments, &["status"]].concat());
    command.env_remove("VEEDEO_SECRET").env("HOOKGATE_ADMIN", gateway.admin.to_string());
    command.envs(variables.iter().copied());
    Said::of(command.output().unwrap())
}

/// A configuration in `etc/` that includes what is in `etc/parts/`, where the token lies.
fn in_two_folders(desk: &Desk) {
    std::fs::create_dir_all(desk.folder.path().join("etc/parts")).unwrap();
    let text = std::fs::read_to_string(desk.folder.path().join("hookgate.toml")).unwrap();
    desk.write("etc/hookgate.toml", &format!("include = [\"parts/*.toml\"]\n{text}"));
    desk.write("etc/parts/token", &format!("{TOKEN}\n"));
}

#[test]
fn the_admin_token_is_read_as_the_gateway_reads_it() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    in_two_folders(&desk);
    let parts = desk.folder.path().join("etc/parts").display().to_string();
    let variables =
        [("HOOKGATE_CONFIG", "etc/hookgate.toml"), ("THE_TOKEN", TOKEN), ("CREDENTIALS_DIRECTORY", parts.as_str())];
    for written in [
        format!("admin_token = {{ literal = \"{TOKEN}\" }}"),
        "admin_token = { env = \"THE_TOKEN\" }".to_owned(),
        "admin_token = { file = \"token\" }".to_owned(),
        "admin_token = { credential = \"token\" }".to_owned(),
        format!("[admin_token]\nliteral = '''{TOKEN}'''"),
        "[admin_token]\nfile = \"token\"".to_owned(),
        "admin_token.file = \"token\"".to_owned(),
    ] {
        desk.write("etc/parts/admin.toml", &format!("{written}\n"));
        let by_variable = with_token_of(&desk, &gateway, &[], &variables);
        let by_flag = with_token_of(&desk, &gateway, &["--config", "etc/hookgate.toml"], &variables[1..]);
        for said in [by_variable, by_flag] {
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        }
    }
    std::fs::remove_file(desk.folder.path().join("etc/parts/admin.toml")).unwrap();
    let by_key = [&variables[..], &[("HOOKGATE_ADMIN_TOKEN__ENV", "THE_TOKEN")]].concat();
    with_token_of(&desk, &gateway, &[], &by_key).ok("spool:");
    // As a listener's own address this is none, as the address that is asked it is.
    let mut command = desk.command(&["status", "--admin", &gateway.admin.to_string()]);
    command.env_remove("VEEDEO_SECRET").env("HOOKGATE_ADMIN", "").envs(by_key.iter().copied());
    Said::of(command.output().unwrap()).ok("spool:");
    for address in [format!("http://{}", gateway.admin), format!("localhost:{}", gateway.admin.port())] {
        let by_address = [&by_key[..], &[("HOOKGATE_ADMIN", &*address)]].concat();
        with_token_of(&desk, &gateway, &[], &by_address).ok("spool:");
    }
}

#[test]
fn a_token_that_is_not_there_is_named_and_the_gateway_asked_without_it() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    in_two_folders(&desk);
    for (written, why) in [
        ("{ env = \"THE_TOKEN\" }", "THE_TOKEN is not set"),
        ("{ file = \"gone\" }", "etc/parts/gone"),
        ("{ credential = \"token\" }", "CREDENTIALS_DIRECTORY"),
        ("{ literal = \" \" }", "blank"),
        ("{ literal = \"a\", env = \"THE_TOKEN\" }", "several places"),
    ] {
        desk.write("etc/parts/admin.toml", &format!("admin_token = {written}\n"));
        let said = with_token_of(&desk, &gateway, &[], &[("HOOKGATE_CONFIG", "etc/hookgate.toml")]);
        said.failed(1, "set HOOKGATE_ADMIN_TOKEN");
        let line = said.err.lines().next().unwrap();
        assert!(line.contains(WITHOUT) && line.contains("`admin_token` is") && line.contains(why), "{said:?}");
        assert_eq!(said.err.lines().count(), 2, "{said:?}");
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_fault_of_a_gateway_as_of_a_spool() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let spool = desk.spool().display().to_string();
    for (command, words) in [
        ("dlq list --since yesterday", "2026-01-31T12:00:00Z"),
        ("dlq list --reason x", "attempts_exhausted"),
        ("dlq export --from x", "UUID"),
        ("dlq export --until x", "not a moment"),
        ("dlq show x", "UUID"),
    ] {
        let words_typed: Vec<&str> = command.split_whitespace().collect();
        gateway.ask(&desk, &words_typed).failed(2, words);
        desk.run(&[words_typed, vec!["--spool", &spool]].concat()).failed(2, words);
    }
    for command in
        ["events show nosuch", "events show nosuch --body", "dlq retry nosuch --yes", "dlq drop nosuch --yes"]
    {
        gateway.ask(&desk, &command.split_whitespace().collect::<Vec<_>>()).failed(2, "UUID");
    }
}

#[test]
fn events_are_not_listed_by_a_word_that_is_none() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let list = |field: &str, word: &str| gateway.ask(&desk, &["events", "list", field, word]);
    list("--disposition", "nonsense").failed(2, "delivered, app_rejected, app_failed, spooled");
    list("--reason", "nonsense").failed(2, "signature_mismatch");
    list("--reason", "nonsense").failed(2, "too_old");
    for word in ["refused", "unavailable", "passthrough"] {
        list("--disposition", word).ok("");
    }
    for word in ["signature_mismatch", "spool_full", "app_rejected", "damaged"] {
        list("--reason", word).ok("");
    }
}

#[test]
fn a_route_that_is_none_is_named_where_nothing_is_found_for_it() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    for command in
        ["events list", "events list --json", "dlq list", "dlq list --json", "dlq drop --yes", "dlq retry --dry-run"]
    {
        let words: Vec<&str> = command.split_whitespace().collect();
        for (route, times) in [("nonsense", 1), ("veedeo", 0), ("_none", 0)] {
            let said = gateway.ask(&desk, &[words.clone(), vec!["--route", route]].concat());
            assert_eq!(said.code, 0, "{command}: {said:?}");
            let told = said.err.matches(&format!("no route is called {route:?}")).count();
            assert_eq!(told, times, "{command}: {said:?}");
        }
    }
}

#[test]
fn send_takes_the_configured_listener_for_what_it_speaks() {
    let desk = Desk::new();
    let text = std::fs::read_to_string(desk.folder.path().join("hookgate.toml")).unwrap();
    desk.write("hookgate.toml", &format!("{text}[server.tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n"));
    let said = desk.run(&["send", "veedeo"]);
    said.failed(2, "https://127.0.0.1:9/webhooks/veedeo");
    said.failed(2, "--print-curl");
    desk.run(&["send", "veedeo", "--print-curl"]).ok("'https://127.0.0.1:9/webhooks/veedeo'");
    desk.run(&["send", "veedeo", "--print-curl", "--to", "http://x"]).ok("'http://x/webhooks/veedeo'");
}

#[test]
fn the_help_says_what_a_wanted_refusal_ends_with_and_what_a_captured_request_is() {
    let desk = Desk::new();
    let send = desk.run(&["send", "-h"]);
    assert_eq!(send.ok("").out.matches("0 if it is refused, 1 if not").count(), 2, "{send:?}");
    let shape = r#"{"route": "…", "method": "…", "url": "…", "headers": [["Name", "value"], …], "body_b64": "…"}"#;
    let one_line = |said: &Said| said.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let verify = one_line(desk.run(&["verify", "--help"]).ok("--input"));
    assert!(verify.contains(shape) && verify.contains("`dlq export`"), "{verify}");
    assert!(std::fs::read_to_string("docs/OPERATIONS.md").unwrap().contains(shape));
}

#[test]
fn verify_reads_what_an_export_writes() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    gateway.put_dead(1);
    let spool = desk.spool().display().to_string();
    for said in [gateway.ask(&desk, &["dlq", "export"]), desk.run(&["dlq", "export", "--spool", &spool])] {
        desk.write("exported.ndjson", &said.ok("body_b64").out);
        let said = desk.run(&["verify", "--input", "exported.ndjson"]);
        assert_eq!((said.code, said.lines()[0]["reason"].as_str()), (3, Some("signature_missing")), "{said:?}");
    }
}
