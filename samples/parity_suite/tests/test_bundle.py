"""The bundle computes what PyTorch does: with each adapter and without any, at every shape of the record."""


def test_case(adapter_case, assert_parity):
    assert_parity(case=adapter_case)


def test_files_labels_and_tokens(assert_parity):
    assert_parity()


def test_an_answer(adapter_session, assert_parity):
    assert_parity("topics", "what a lovely day")
    assert adapter_session.labels("topics") == ("food", "sport")
