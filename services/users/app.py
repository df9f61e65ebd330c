"""The use cases of this context; each opens at most one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from chassis import outbox
from chassis.clock import Clock
from chassis.ids import NewId
from chassis.postgres import Database, Transaction
from services.users import events, store
from services.users.credentials import AccessToken, AccessTokens, Passwords
from services.users.domain import (
    BadCredentialsError,
    CustomerStatistics,
    EmailTakenError,
    PostalAddress,
    Role,
    StatisticsChange,
    User,
    UserAddress,
    UserState,
    can_be_an_email,
    normal_email,
    require_room_for_an_address,
)

BOOTSTRAP_ADMIN_NAME = "Administrator"


@dataclass(frozen=True, kw_only=True)
class Users:
    """The use cases and what they need.

    Attributes:
        published: called after a commit that left something in the outbox; wakes the relay.
    """

    database: Database
    passwords: Passwords
    tokens: AccessTokens
    clock: Clock
    new_id: NewId
    published: Callable[[], None]

    async def register(self, *, email: str, password: str, display_name: str) -> User:
        """Creates a customer's account and tells the others.

        Raises:
            EmailTakenError: another account has this e-mail.
            BusyError: too many passwords wait already.
        """
        return await self._create(email, password, display_name, Role.CUSTOMER)

    async def ensure_admin(self, *, email: str, password: str) -> None:
        """Creates an admin unless some account has the e-mail already, which then stays as it is."""
        if await store.email_exists(self.database, normal_email(email)):
            return
        try:
            await self._create(email, password, BOOTSTRAP_ADMIN_NAME, Role.ADMIN)
        except EmailTakenError:
            # Another replica was faster.
            return

    async def log_in(self, *, email: str, password: str) -> tuple[AccessToken, User]:
        """Exchanges e-mail and password for an access token.

        Raises:
            BadCredentialsError: whatever is wrong with them, after the same work.
            BusyError: too many passwords wait already.
        """

        async def verify(password_hash: str | None) -> bool:
            return await self.passwords.verify(password_hash, password)

        known_form = normal_email(email) if can_be_an_email(email) else None
        user = await store.user_with_password(self.database, known_form, verify)
        if user is None or user.state is not UserState.ACTIVE:
            raise BadCredentialsError
        return self.tokens.issue(user), user

    async def get_user(self, user_id: UUID) -> User:
        """Reads one user.

        Raises:
            UserNotFoundError: there is none.
        """
        return await store.user_by_id(self.database, user_id)

    async def set_role(self, user_id: UUID, role: Role) -> User:
        """Changes a user's role. Tokens that are out keep the old one until they expire.

        Raises:
            UserNotFoundError: there is none.
        """
        return await store.set_role(self.database, user_id, role)

    async def add_address(self, user_id: UUID, request_id: UUID, address: PostalAddress) -> UserAddress:
        """Adds an address; the same request again returns what it made the first time.

        Raises:
            UserNotFoundError: there is no such user.
            TooManyAddressesError: the address book is full.
        """
        entry = UserAddress(self.new_id(), address, self.clock.now())

        async def use_case(tx: Transaction) -> UserAddress:
            # The lock makes requests of one user wait for each other, so that the count and the look hold.
            await store.lock_user(tx, user_id)
            book = await store.addresses_of_user(tx, user_id)
            if request_id in book:
                return book[request_id]
            require_room_for_an_address(len(book))
            await store.insert_address(tx, user_id, request_id, entry)
            return entry

        return await self.database.run(use_case)

    async def list_addresses(self, user_id: UUID) -> Sequence[UserAddress]:
        """The address book, oldest first.

        Raises:
            UserNotFoundError: there is no such user.
        """
        return list((await store.addresses_of_user(self.database, user_id)).values())

    async def assert_can_order(self, user_id: UUID, address_id: UUID) -> PostalAddress:
        """The address that an order of this user goes to, as it is now.

        Raises:
            UserNotFoundError: there is no such user.
            UserNotActiveError: the user may not order.
            AddressNotFoundError: the user has no such address.
        """
        return await store.address_to_order_to(self.database, user_id, address_id)

    async def get_statistics(self, user_id: UUID) -> CustomerStatistics:
        """What a customer ordered and spent, as far as the facts have arrived."""
        return await store.statistics_of_user(self.database, user_id)

    def key_set_json(self) -> str:
        """The public keys that verify access tokens, as a JSON Web Key Set."""
        return self.tokens.key_set_json()

    async def _create(self, email: str, password: str, display_name: str, role: Role) -> User:
        # Before the transaction: no connection waits for argon2.
        password_hash = await self.passwords.hash(password)
        user = User(
            id=self.new_id(),
            email=normal_email(email),
            display_name=display_name,
            role=role,
            state=UserState.ACTIVE,
            create_time=self.clock.now(),
        )
        event = events.user_registered(self.new_id(), user)

        async def use_case(tx: Transaction) -> None:
            sequence = await store.insert_user(tx, user, password_hash=password_hash)
            if sequence is None:
                raise EmailTakenError
            await outbox.append(tx, event, sequence=sequence)

        await self.database.run(use_case)
        self.published()
        return user


async def record_order_fact(tx: Transaction, change: StatisticsChange) -> None:
    """Counts one fact about an order, in the transaction of the inbox that lets each pass once."""
    await store.add_to_statistics(tx, change)
