//! The promises of Overdue, one file each, kept against a real broker and a real database.
//!
//! Every test has a vhost and a database of its own and waits for conditions, never for a time to pass. `make test`
//! starts what is needed; a missing broker or database fails.

#![expect(
    clippy::expect_used,
    reason = "the harness is test code too; a failed expectation is a failed test"
)]

mod harness;

mod a_backlog_costs_nothing_twice;
mod a_burst_leaves_room_for_buyers;
mod a_shop_keeps_tables_of_its_own;
mod a_stuck_lane_is_reported;
mod bad_messages_hold_up_nobody;
mod closes_unpaid_orders_on_time;
mod closes_whole_or_not_at_all;
mod conserves_stock;
mod documents_are_true;
mod does_what_the_command_line_says;
mod drops_no_message;
mod edits_lock_their_order;
mod effects_follow_what_the_row_became;
mod errors_name_the_setting;
mod every_decoder_keeps_its_word;
mod forgets_silent_brokers;
mod holds_up_nobody;
mod imports_go_down;
mod keeps_one_truth_for_the_topology;
mod migrates_beside_a_working_shop;
mod migrations_keep_the_data;
mod misses_no_item;
mod names_the_true_reason;
mod needs_its_session_settings;
mod never_closes_a_paid_order;
mod nobodys_names_are_called;
mod nothing_that_happens_to_the_log_stops_a_pod;
mod notices_another_server;
mod notices_what_the_broker_has_lost;
mod obeys_every_signal;
mod one_bad_order_never_stops_another;
mod one_subscriber_stops_no_other;
mod outlives_properties_that_no_library_reads;
mod parked_messages_outlive_interruption;
mod parked_messages_say_why;
mod plans_do_not_hang_on_statistics;
mod publishes_every_event;
mod rebuilds_broken_sessions;
mod rights_give_nobody_more;
mod serves_several_shops;
mod speaks_tls;
mod stops_without_a_trace;
mod survives_the_loss_of_a_pod;
mod tells_what_the_broker_means;
mod the_protocol_holds_in_every_interleaving;
mod the_readmes_sql_cannot_half_succeed;
mod the_schema_is_verified;
mod the_schema_refuses_impossible_rows;
mod the_sweep_closes_what_no_wake_closed;
mod two_shops_on_one_prefix_are_noticed;
mod understands_what_real_clients_send;
mod users_do_no_more_than_their_part;
mod verify_says_what_it_could_not_see;
mod waiting_orders_are_announced_again;
mod waits_out_an_alarm;
mod wakes_follow_the_order;
mod works_through_a_pooler;
