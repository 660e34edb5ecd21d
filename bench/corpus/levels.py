"""Refusals that a proxy need not share: it would read the right name. More of them stand as `should` where they are made."""

DEFENSIBLE = frozenset(
    {
        # RFC 6066 3 forbids two names of one type, not one name beside an entry of another type.
        "dup_two_names_then_type_1",
        "dup_two_names_first_type_1",
        # A list without a host_name may count as no name.
        "list_type_1",
        "list_type_255",
        # RFC 8446 5.1: versions of records may be ignored, all of them.
        "rec_version_0200",
        "rec_version_0401",
        "rec_version_0001",
        "rec_version_later",
        # An empty record between two that are not is forbidden to send, but harms nobody.
        "rec_empty_first",
        "rec_empty_between",
        # What follows the hello in its record is for the server to judge.
        "rec_two_hellos",
        "rec_byte_after_hello",
        "rec_byte_after_hello_in_last",
    }
)
