//! What the real Envoy makes of our resources: every law of the data plane that a client can see, against recording
//! backends. Nothing is refused and nothing is warned about on the way.
//!
//! This binary is the launcher of its children (`run-child …`), so it has a `main` of its own instead of the test
//! harness's. An argument runs only the tests whose name has it in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::panic, reason = "a test fails by panicking")]

mod backend;
mod client;
mod experiments;
mod failures;
mod rest;
mod rollout;
mod rpc;
mod world;

use runtime::child::{NOT_EXECUTED, RUN_CHILD, run_child};
use world::World;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if first.as_ref().is_some_and(|verb| verb == RUN_CHILD) {
        let error = run_child(arguments).unwrap_err();
        eprintln!("{error}");
        std::process::exit(NOT_EXECUTED);
    }
    let only = first.map(|word| word.to_string_lossy().into_owned()).filter(|word| !word.starts_with("--"));
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run(only));
}

macro_rules! tests {
    ($only:expr, $world:expr, $($module:ident::$name:ident),* $(,)?) => {
        $(
            if $only.as_ref().is_none_or(|word| stringify!($name).contains(word.as_str())) {
                println!("test {} ...", stringify!($name));
                let started = std::time::Instant::now();
                Box::pin($module::$name(&mut $world)).await;
                $world.nothing_was_refused();
                println!("test {} ... ok ({:?})", stringify!($name), started.elapsed());
            }
        )*
    };
}

async fn run(only: Option<String>) {
    let mut world = World::start(false).await;
    tests!(
        only,
        world,
        rest::model_in_the_path_is_enough,
        rest::header_beats_the_path,
        rest::internal_model_of_a_client_is_overwritten,
        rest::response_names_its_route,
        rest::request_id_is_the_clients_or_none,
        rest::unknown_model_is_404_with_json_that_names_it,
        rest::declared_name_that_nobody_serves_is_503_with_json_that_says_so,
        rest::server_wide_calls_go_to_any_agent,
        rest::canary_answers_when_routes_have_arrived,
        rest::logged_payloads_are_announced,
        rest::fifty_megabytes_pass,
        rpc::model_name_in_the_message_is_enough,
        rpc::header_beats_the_message,
        rpc::stream_is_routed_by_its_first_message,
        rpc::unknown_model_is_unimplemented_and_named,
        rpc::declared_name_that_nobody_serves_is_unavailable_and_named,
        rpc::name_that_can_be_none_becomes_no_header,
        rpc::server_wide_calls_go_to_any_agent,
        rpc::fifty_megabytes_pass,
        rollout::two_versions_share_by_weight,
        rollout::client_stays_where_its_route_says,
        rollout::logged_payloads_are_announced_in_a_roll_out,
        rollout::two_ports_are_told_apart,
        rollout::one_and_two_ports_share_a_roll_out,
        experiments::experiment_is_split_by_weight_over_rest_and_grpc,
        experiments::client_stays_with_its_candidate_while_there_is_one,
        experiments::mirror_gets_a_copy_of_every_request_and_nobody_sees_its_answer,
        experiments::mirror_gets_its_share,
        experiments::mirror_that_fails_hangs_or_is_dead_harms_nobody,
        experiments::mirror_with_two_ports_gets_each_protocol_at_its_own,
        experiments::change_of_one_name_among_ten_thousand_sends_one,
        failures::refused_connection_is_retried_elsewhere,
        failures::refused_stream_is_retried_elsewhere,
        failures::model_that_is_not_there_yet_is_asked_for_elsewhere_and_costs_its_replica_nothing,
        failures::answer_is_never_retried,
        failures::single_replica_is_never_left_out,
        failures::draining_replica_gets_nothing_new_and_finishes,
        failures::unwell_replica_gets_nothing_even_when_it_is_the_only_one,
        failures::name_instead_of_an_address_reaches_no_envoy,
        failures::removed_route_is_404_and_its_cluster_goes_after_the_grace,
        failures::move_to_another_set_loses_nothing,
    );
    let log = world.stop().await;
    if only.is_none() {
        failures::access_log_has_failures_only(&log);
        println!("test access_log_has_failures_only ... ok");
        Box::pin(failures::access_log_has_everything_when_asked()).await;
        println!("test access_log_has_everything_when_asked ... ok");
    }
}
