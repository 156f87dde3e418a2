"""What holds for HTTP in the open holds inside a tunnel: tests/wire's own tests, run again behind a
CONNECT, with TLS and without. Every client there is one of tunnel_rig's."""

from collections.abc import Callable

import pytest
import test_wire_forward as forward
import test_wire_framing as framing
import test_wire_payments as payments
import test_wire_refusals as refusals
import test_wire_tunnels as tunnels
import test_wire_uploads as uploads

AGAIN: list[Callable[..., object]] = [
    forward.test_case_order_and_repeats_of_headers_are_kept,
    forward.test_hop_by_hop_fields_stop_here,
    forward.test_connection_cannot_strip_what_frames_or_names_a_request,
    forward.test_our_own_headers_travel_neither_way,
    forward.test_compressed_bodies_are_not_touched,
    framing.test_keep_alive_serves_one_connection_with_one_connection,
    framing.test_pipelined_requests_are_answered_in_order,
    framing.test_more_pipelined_requests_than_the_parser_queues,
    framing.test_a_large_body_may_wait_behind_a_slow_request,
    framing.test_head_204_and_304_have_no_body_and_keep_the_connection,
    framing.test_interim_answers_pass_but_not_to_http10,
    framing.test_a_chunked_answer_stays_chunked,
    framing.test_http10_gets_no_chunks,
    framing.test_http10_keeps_alive_only_when_asked,
    framing.test_a_body_that_ends_with_the_connection_is_framed_anew,
    framing.test_connection_close_is_kept_by_both_sides,
    framing.test_a_truncated_answer_never_looks_complete,
    framing.test_a_provider_that_dies_without_an_answer_is_a_502,
    framing.test_what_follows_an_answer_reaches_nobody,
    framing.test_bytes_on_an_idle_connection_end_it,
    framing.test_an_answer_out_of_form_is_a_502,
    framing.test_a_lenient_answer_is_relayed_in_strict_form,
    framing.test_events_are_relayed_as_they_come,
    framing.test_an_answer_of_many_small_and_odd_chunks,
    payments.test_a_402_is_paid_and_the_paid_answer_delivered,
    payments.test_a_402_that_is_not_paid_comes_as_it_is,
    payments.test_a_second_402_is_an_answer_like_any_other,
    payments.test_the_last_byte_waits_for_the_record,
    payments.test_paid_events_are_not_held_back,
    payments.test_a_paid_head_request,
    payments.test_a_paid_answer_that_breaks_off,
    payments.test_a_program_that_went_before_the_payment_is_not_paid_for,
    payments.test_a_program_that_goes_during_the_paid_attempt,
    payments.test_a_program_that_goes_while_the_answer_streams,
    payments.test_pipelined_purchases_are_answered_in_order,
    payments.test_a_paid_interim_answer_passes,
    payments.test_a_slow_reader_of_a_paid_answer_slows_the_provider,
    refusals.test_a_coding_we_do_not_know_is_refused,
    refusals.test_newlines_between_requests_are_nothing,
    refusals.test_one_field_of_60_kib_passes_both_ways,
    tunnels.test_a_websocket_with_early_bytes_on_both_sides,
    tunnels.test_a_refused_upgrade_is_an_answer_and_closes,
    tunnels.test_a_paid_websocket,
    tunnels.test_an_unpaid_websocket,
    uploads.test_expect_is_the_providers_to_answer,
    uploads.test_a_body_sent_without_waiting_for_100,
    uploads.test_expect_that_is_refused_closes,
    uploads.test_a_402_before_the_body_and_the_100_for_the_paid_attempt,
    uploads.test_a_body_that_was_sent_is_replayed_without_expect,
    uploads.test_20_mb_with_1_mb_of_memory_is_replayed_byte_for_byte,
    uploads.test_a_402_while_the_upload_is_still_running,
    uploads.test_a_402_that_was_not_read_to_its_end_does_not_stop_the_paid_upload,
    uploads.test_an_early_402_that_is_not_paid,
    uploads.test_an_answer_may_come_while_the_body_goes,
    uploads.test_a_slow_provider_holds_the_program_back,
]
globals().update({test.__name__: test for test in AGAIN})


@pytest.fixture(params=["https", "http"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)
